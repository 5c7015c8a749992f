"""One HTTP exchange as plain data: calls and replies, their URLs and JSON, and what is hidden of them."""
