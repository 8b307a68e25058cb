"""What is said of mistakes, and their fixes."""
