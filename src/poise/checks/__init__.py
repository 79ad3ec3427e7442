"""What `poise check-env` checks.

`report` says what was found, `probe` makes the calls; `play`, `seeds` and `measure` are the checks;
`values` and `where` help to say what is wrong where, and `child` runs all in a process of their
own.
"""
