"""Reads a module that was exported at home (docs/exported.md) without running or unpickling anything in the file.

`program.read` gives a Program: shapes, parameters, and `build` for the nn.Module. Everything that is wrong with a file is
one UnreadableProgram whose message is a sentence.
"""
