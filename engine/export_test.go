package engine

// SetAfterReplaced sets what a client calls between the record of a replacement
// and its schedule.
func SetAfterReplaced(c *Client, f func()) { c.afterReplaced = f }

// SetMendMost sets how many messages a janitor puts right in one go.
func SetMendMost(j *Janitor, most int) { j.most = most }
