"""The race: interchangeable parts on the same data, under the same budget."""
