"""Questions asked of finished runs: does the optimum transfer, and how does it fall with depth?"""
