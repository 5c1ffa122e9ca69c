package schedule

import "time"

// Plan is when a schedule would run next.
type Plan struct {
	Name      string    `json:"name"`
	Operation string    `json:"operation"`
	Subject   string    `json:"subject,omitempty"`
	When      string    `json:"when"`
	Next      time.Time `json:"next"`
}

// Plan returns when each schedule would run first if it began now, jitter left out.
func (c *Config) Plan(now time.Time) []Plan {
	plans := []Plan{}
	for _, s := range c.Schedules {
		next := now
		if _, fixed := s.clock.(every); !fixed {
			next = s.clock.next(now)
		}
		plans = append(plans, Plan{s.Name, s.operation(), s.subject(), s.clock.String(), s.window.open(next.In(s.zone))})
	}
	return plans
}
