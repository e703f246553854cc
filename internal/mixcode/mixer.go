package mixcode

const (
	stride    = 24 // inputs of a mixer, at most
	maxSets   = 3
	oneWeight = 1 << 16
	rateShift = 14
)

// A mixer weighs the opinions of the models: for each of its selectors it has sets of weights, one of which is chosen by a context; the
// results of the selectors are averaged in the logistic domain.
type mixer struct {
	t       *tables
	inputs  int
	nsel    int
	x       [stride]int32
	weights [maxSets][][stride]int32
	chosen  [maxSets]int
	p       [maxSets]uint32
	dot     int32
	rate    int32
}

// setUp makes the sets, sizes[i] of them for selector i, all weights of input j being first[j].
func (m *mixer) setUp(t *tables, sizes []int, first []int32) {
	m.t, m.inputs, m.nsel = t, len(first), len(sizes)
	for i, size := range sizes {
		if cap(m.weights[i]) < size {
			m.weights[i] = make([][stride]int32, size)
		}
		m.weights[i] = m.weights[i][:size]
		for j := range m.weights[i] {
			copy(m.weights[i][j][:], first)
		}
	}
}

// mix gives the probability of a one in 16 bits.
func (m *mixer) mix() uint32 {
	n := m.inputs
	x := m.x[:n]
	total := int32(0)
	for s := range m.nsel {
		w := m.weights[s][m.chosen[s]][:n]
		var sum int64
		for i, v := range x {
			sum += int64(v) * int64(w[i])
		}
		d := clampLogit(int32(sum >> 16))
		m.p[s] = uint32(m.t.squash[d+logitMax])
		total += d
	}
	m.dot = total / int32(m.nsel)
	return uint32(m.t.squash[m.dot+logitMax])
}

// train moves the chosen weights against their error.
func (m *mixer) train(bit uint32) {
	n := m.inputs
	x := m.x[:n]
	for s := range m.nsel {
		e := (int32(bit<<16) - int32(m.p[s])) * m.rate
		w := m.weights[s][m.chosen[s]][:n]
		for i, v := range x {
			w[i] += int32((int64(v)*int64(e) + 1<<(rateShift+3)) >> (rateShift + 4))
		}
	}
}

func clampLogit(v int32) int32 { return max(-logitMax, min(logitMax, v)) }
