"""The callables behind the stages of the flow."""
