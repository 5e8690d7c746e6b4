package engine

// SetAfterReplaced sets what a client calls between the record of a replacement
// and its schedule.
func SetAfterReplaced(c *Client, f func()) { c.afterReplaced = f }
