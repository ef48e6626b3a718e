"""What the pages of the admin are made of: lists that count nothing, search by ids, filters, columns, actions."""
