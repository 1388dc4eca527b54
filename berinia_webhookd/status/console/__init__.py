"""The web console for operators: messages, their outcomes, and actions on them. It has its own
application on its own socket, and uses the same operations as the commands.
"""
