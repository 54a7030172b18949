"""Pictures on disk and in memory, whatever they are wanted for."""
