"""How a round ends: who sends its adapters to whom, and what each goes on with."""
