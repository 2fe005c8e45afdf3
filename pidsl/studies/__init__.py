"""What one does with bounds: costs, comparisons, designs, and published claims."""
