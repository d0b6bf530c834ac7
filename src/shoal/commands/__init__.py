"""The commands behind `shoal`, one module for each group. They parse, call and print; they decide nothing."""
