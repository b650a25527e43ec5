"""What runs shut in: fork servers, the candidate's side and the tests' side. Standard library only."""
