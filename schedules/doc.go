// Package schedules sends tasks at their times.
//
// It stands at the beginning of the path, where tasks come from a timetable:
// what is due goes into a queue stream in one batch with the ledger of its entry
// (package ledger), so that of any number of beats exactly one sends it.
//
// An [Entry] says when and what. Its occurrences are known by their nominal
// times, which follow from the entry alone: whole seconds, whoever computes them
// and whenever. [Schedule.Due] decides which of them are sent and which are
// skipped; it has no clock and no memory, so that any process that knows up to
// where an entry is decided comes to the same.
//
// # Intervals
//
// Every counts elapsed time: Start + k × Every, or whole multiples of Every since
// the start of 1970 in UTC. No change of clocks touches it, nor does a restart.
//
// # Cron
//
// A line has five fields, minute, hour, day of month, month and day of week, or
// six with the second first. A field is *, a value, a range a-b, any of these
// with a step, as */15 or 9-17/2, or a list of them by comma; a/n is a-highest/n.
// Months and days of week may be names, JAN or MON; Sunday is 0 and 7; ? is *
// in both fields of days. @yearly, @monthly, @weekly, @daily and @hourly stand
// for their lines. Where both fields of days are restricted, either is enough;
// one that has a * in it, */2 too, is not, and then both must match.
//
// The line is read by the wall clock of Zone, UTC unless set. What happens where
// that clock is put forward or back depends on the hour field:
//
//   - An hour without * and step is fixed, and each wall-clock time is due once:
//     when the clock first shows it or a later one. What the clock leaves out is
//     therefore due when it goes on, several that meet there are one, and what
//     it shows twice is due the first time.
//   - An hour with * or a step goes by what the clock shows: what it leaves out is
//     not due, what it shows twice is due both times.
//
// So "30 2 * * *" in Berlin is due each day once, at 03:00 on the day that has no
// 02:30, and "*/10 * * * *" every ten minutes of elapsed time.
//
// Zones are compiled in, see [ZoneVersion]; those of the machine are not read,
// so that all beats of a release agree.
//
// # Catch-up
//
// An occurrence is on time up to 30 s after its nominal time, and then sent
// whatever the policy. An older one was missed: see [CatchUp].
package schedules
