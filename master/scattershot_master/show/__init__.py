"""What people see on a terminal: pages, tables, the live view."""
