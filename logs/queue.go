package logs

// queue holds encoded events, the oldest first, within bounds: where there is no room for one, the oldest go.
type queue struct {
	most, mostBytes int

	events [][]byte // a ring, of which count are in use from first
	first  int
	count  int
	bytes  int
}

// push appends an event and returns how many had to go for it.
func (q *queue) push(event []byte) (dropped int) {
	for q.count > 0 && (q.count >= q.most || q.bytes+len(event) > q.mostBytes) {
		q.pop()
		dropped++
	}
	if q.count == len(q.events) {
		q.grow()
	}
	q.events[(q.first+q.count)%len(q.events)] = event
	q.count++
	q.bytes += len(event)
	return dropped
}

func (q *queue) grow() {
	more := make([][]byte, min(max(16, 2*len(q.events)), q.most))
	for i := range q.count {
		more[i] = q.events[(q.first+i)%len(q.events)]
	}
	q.events, q.first = more, 0
}

// peek returns the oldest event, nil if there is none.
func (q *queue) peek() []byte {
	if q.count == 0 {
		return nil
	}
	return q.events[q.first]
}

// pop removes the oldest event, if there is one. An empty queue takes no memory.
func (q *queue) pop() {
	if q.count == 0 {
		return
	}
	q.bytes -= len(q.events[q.first])
	q.events[q.first] = nil
	q.first = (q.first + 1) % len(q.events)
	if q.count--; q.count == 0 {
		q.events, q.first = nil, 0
	}
}
