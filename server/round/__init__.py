"""One round: who is asked, what is sent and awaited, which replies count, and the loop."""
