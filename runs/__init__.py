"""What is stopped or killed goes on: states, processes, and draws that are the same after it."""
