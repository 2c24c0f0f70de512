"""What is measured. Imports neither bot nor runner."""
