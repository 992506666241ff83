"""Workers that do not play fair, for demonstrations and tests of what a market does about them."""
