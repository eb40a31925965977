"""What writes the documents, and holds them to the code."""
