package topology

// ManagedFields are the names of the fields that are compared, of streams and
// of consumers: true where one is contract for the kind.
func ManagedFields(k Kind) (streams, consumers map[string]bool) {
	streams, consumers = make(map[string]bool), make(map[string]bool)
	for _, f := range streamFields {
		streams[f.name] = f.contract(k)
	}
	for _, f := range consumerFields {
		consumers[f.name] = f.contract(k)
	}
	return streams, consumers
}
