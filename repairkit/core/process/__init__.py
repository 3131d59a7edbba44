"""The process around the nouns: text, files, code of the user, stages and time limits."""
