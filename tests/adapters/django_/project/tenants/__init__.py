"""An engine as other packages make one, on connections of the guard's."""
