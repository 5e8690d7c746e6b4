package schedules

// LoadZone is a zone as the schedules have it.
var LoadZone = loadZone

// ZoneFiles is the archive of zones.
var ZoneFiles = zoneinfo
