"""What `poise check-env` checks: `report` says what was found, `probe` makes the calls, `play`,
`seeds` and `measure` are the checks, `values` and `where` help to say what is wrong where, `child`
runs them in a process of their own."""
