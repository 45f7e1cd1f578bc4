"""What the measurements are made of: watching modules, passes, derivatives, fitted exponents."""
