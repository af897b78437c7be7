"""The paper's claims, each decided by a rule that was written down before the results that it reads."""
