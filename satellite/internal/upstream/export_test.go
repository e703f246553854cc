package upstream

// What the external tests need.
var (
	PlanFromProto = planFromProto
	PlanProto     = planProto
)
