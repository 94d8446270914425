"""What flows/synth.py is made of: tools, cache, shell, one file per vendor flow, the page."""
