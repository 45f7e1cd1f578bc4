"""How a tensor's numbers follow the size of its network: roles, optimizers, rules and plans. No torch in here."""
