"""Child processes of Poise: how they begin, and how they talk with whoever started them."""
