"""Documents to hold, and what writes what code can show of them."""
