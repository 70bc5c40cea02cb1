"""What is trained beside a frozen model, one kind a file."""
