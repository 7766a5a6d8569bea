"""What several experiments share. A claim's evidence rests on the modules of this package that the claim imports."""
