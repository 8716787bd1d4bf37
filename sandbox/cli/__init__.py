"""click commands, one file per noun. Imports lazily: a call must cost less than 100 ms."""
