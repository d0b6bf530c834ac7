"""What a specialist for function calls is made of: turns read, values found, choices ranked. The trainer: `agents/learning/tool_call.py`."""
