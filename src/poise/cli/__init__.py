"""The command `poise`: thin, and generated from the configurations. Nothing imports it."""
