"""`monitor`: does what a repair promised hold on later images?"""
