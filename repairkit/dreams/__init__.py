"""Images made to excite a filter: their basis, small moves, gradient ascent, evolution."""
