"""What `report.html` is made of beside the figures."""
