package deflate

// The alphabets of RFC 1951 section 3.2.5. Symbols 286 and 287 are never used but have their place in the static code.
const (
	litSyms      = 286
	distanceSyms = 30
	lenSyms      = 19
	maxCodeBits  = 15
	maxLenBits   = 7
)

var (
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	lengthBase  = [29]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 255}

	distanceExtra = [distanceSyms]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
	distanceBase  = [distanceSyms]uint16{0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768,
		1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576}

	// The order in which the lengths of the length code are written, and the extra bits of its symbols.
	lenOrder = [lenSyms]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	lenExtra = [lenSyms]uint8{16: 2, 17: 3, 18: 7}

	lengthCodes   = makeLengthCodes()   // by length-3
	distanceCodes = makeDistanceCodes() // by distance-1 below 256, then by 256 + (distance-1)/128

	staticLit  = makeStaticLit()
	staticDist = makeStaticDist()
)

// distanceCode returns the code of a distance from 1 to 32768.
func distanceCode(distance uint32) uint8 {
	d := distance - 1
	if d < 256 {
		return distanceCodes[d&511]
	}
	return distanceCodes[(256+d>>7)&511]
}

func makeLengthCodes() (t [256]uint8) {
	for code, base := range lengthBase {
		for l := int(base); l < 256; l++ {
			t[l] = uint8(code)
		}
	}
	return t
}

func makeDistanceCodes() (t [512]uint8) {
	for code, base := range distanceBase {
		for d := int(base); d < 1<<15; d++ {
			if d < 256 {
				t[d] = uint8(code)
			} else {
				t[256+d>>7] = uint8(code)
			}
		}
	}
	return t
}

func makeStaticLit() *[litSyms]huffCode {
	var code [288]huffCode
	for i := range code {
		switch {
		case i < 144:
			code[i].length = 8
		case i < 256:
			code[i].length = 9
		case i < 280:
			code[i].length = 7
		default:
			code[i].length = 8
		}
	}
	assign(code[:])
	return (*[litSyms]huffCode)(code[:])
}

func makeStaticDist() *[distanceSyms]huffCode {
	var code [32]huffCode
	for i := range code {
		code[i].length = 5
	}
	assign(code[:])
	return (*[distanceSyms]huffCode)(code[:])
}
