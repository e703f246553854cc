package mixcode

const maxFlagContexts = 12

// First weights and probability, learning rate and memory, found by trial as those of byteMix.
const (
	flagWeight = 7000
	flagRate   = 14
	flagFirst  = 6000
	flagLimit  = 120
)

// A flagMix codes one yes or no from contexts that each have a table of probabilities.
type flagMix struct {
	mixer
	env      *environment
	tables   [maxFlagContexts][]adaptive
	index    [maxFlagContexts]uint32 // set by the caller before each decision; the high bits count
	selector [maxSets]int            // likewise
	contexts int
	shift    uint
}

func (f *flagMix) reset(env *environment, contexts int, bits uint, sets []int) {
	f.env, f.contexts, f.shift = env, contexts, 32-bits
	var weights [stride]int32
	first := weights[:contexts+1]
	for i := range first {
		first[i] = flagWeight
	}
	f.setUp(env.tables, sets, first)
	f.rate = flagRate
	for i := range contexts {
		if cap(f.tables[i]) < 1<<bits {
			f.tables[i] = make([]adaptive, 1<<bits)
		}
		f.tables[i] = f.tables[i][:1<<bits]
		t := f.tables[i]
		for j := range t {
			t[j] = fixed(flagFirst, 0)
		}
	}
}

func (f *flagMix) code(rc *rangeCoder, bit uint32) uint32 {
	var at [maxFlagContexts]*adaptive
	for i := range f.contexts {
		a := &f.tables[i][f.index[i]>>f.shift]
		at[i] = a
		f.x[i] = 0
		if *a&1023 != 0 {
			f.x[i] = int32(f.env.stretch[a.p16()>>4])
		}
	}
	f.x[maxFlagContexts] = 256
	f.chosen = f.selector
	p := f.mix()
	bit = rc.bit(bit, max(1, min(65535, p)))
	f.mixer.train(bit)
	for _, a := range at[:f.contexts] {
		a.train(f.env.reciprocals, bit, flagLimit)
	}
	return bit
}
