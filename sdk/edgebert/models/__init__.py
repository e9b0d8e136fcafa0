"""One class a task: a package that is open and answers."""
