//! The date and time that a template may print. The crate has no clock: the caller passes the moment in.

/// A moment as a calendar shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime {
    /// The year, from 0 to 9999.
    pub year: u16,
    /// The month, from 1.
    pub month: u8,
    /// The day of the month, from 1.
    pub day: u8,
    /// The hour, 0 to 23.
    pub hour: u8,
    /// The minute.
    pub minute: u8,
    /// The second.
    pub second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl DateTime {
    /// The moment `seconds` after 1970-01-01 00:00:00. Add the offset of a time zone for its local time. Moments outside the
    /// years 0 to 9999 become 1970.
    #[must_use]
    pub fn from_unix_seconds(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Counted from 0000-03-01, so that a leap day is the last day of its year, in eras of 400 years.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        let Some(year) = u16::try_from(year).ok().filter(|year| *year < 10_000) else {
            return Self { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
        };
        let small = |x: i64| u8::try_from(x).unwrap_or(0);
        let (hour, minute, second) =
            (small(second / 3600), small(second / 60 % 60), small(second % 60));
        Self { year, month: small(month), day: small(day), hour, minute, second }
    }

    fn is_leap(&self) -> bool {
        self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    /// The day of the year, from 1.
    fn day_of_year(&self) -> u16 {
        const BEFORE: [u16; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let before = BEFORE.get(usize::from(self.month).wrapping_sub(1)).copied().unwrap_or(0);
        before + u16::from(self.day) + u16::from(self.month > 2 && self.is_leap())
    }

    /// The day of the week; 0 is Sunday.
    fn weekday(&self) -> u16 {
        let before = self.year.saturating_sub(1);
        let leap_days = before / 4 - before / 100 + before / 400;
        // The year 0 starts on a Saturday, the year 1 on a Monday.
        let first = if self.year == 0 { 6 } else { (1 + before % 7 + leap_days) % 7 };
        (first + self.day_of_year() + 6) % 7
    }

    /// The year and week of ISO 8601: weeks start on Monday, and the first has a Thursday.
    fn iso_week(&self) -> (u16, u16) {
        let from_monday = (self.weekday() + 6) % 7;
        let week = (self.day_of_year() + 9 - from_monday) / 7;
        if week == 0 {
            let last_day = Self { year: self.year.saturating_sub(1), month: 12, day: 31, ..*self };
            return last_day.iso_week();
        }
        let days = if self.is_leap() { 366 } else { 365 };
        if week == 53 && self.day_of_year() + 3 - from_monday > days {
            return (self.year.saturating_add(1), 1);
        }
        (self.year, week)
    }
}

/// Formats as C's `strftime` in the C locale, which is what Python's does. Codes that C does not know stay as they are; a time
/// zone is not known, so its codes are empty. `%-d` and `%_d` drop and blank the padding.
pub(super) fn strftime(at: &DateTime, format: &str) -> String {
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let start = rest.as_str();
        let mut flag = None;
        let mut code = rest.next();
        if let Some('-' | '_' | '0') = code {
            flag = code;
            code = rest.next();
        }
        match code.and_then(|code| field(at, code, flag)) {
            Some(text) => out.push_str(&text),
            None => {
                let length = start.len() - rest.as_str().len();
                out.push('%');
                out.push_str(start.get(..length).unwrap_or_default());
            }
        }
    }
    out
}

fn field(at: &DateTime, code: char, flag: Option<char>) -> Option<String> {
    let pad = |value: u16, width: usize, usual: char| match (flag, usual) {
        (Some('-'), _) => value.to_string(),
        (Some('_'), _) | (None, ' ') => format!("{value:>width$}"),
        _ => format!("{value:0>width$}"),
    };
    let name = |names: &[&'static str], index: u16| {
        names.get(usize::from(index)).copied().unwrap_or_default()
    };
    let short = |name: &str| name.get(..3).unwrap_or_default().to_owned();
    let month = name(&MONTHS, u16::from(at.month).wrapping_sub(1));
    let weekday = name(&WEEKDAYS, at.weekday());
    let hour12 = (u16::from(at.hour) + 11) % 12 + 1;
    let noon = if at.hour < 12 { "AM" } else { "PM" };
    let from_monday = (at.weekday() + 6) % 7;
    Some(match code {
        'a' => short(weekday),
        'A' => weekday.to_owned(),
        'b' | 'h' => short(month),
        'B' => month.to_owned(),
        'C' => pad(at.year / 100, 2, '0'),
        'd' => pad(at.day.into(), 2, '0'),
        'e' => pad(at.day.into(), 2, ' '),
        'f' => "000000".to_owned(),
        'g' => pad(at.iso_week().0 % 100, 2, '0'),
        'G' => pad(at.iso_week().0, 4, '0'),
        'H' => pad(at.hour.into(), 2, '0'),
        'I' => pad(hour12, 2, '0'),
        'j' => pad(at.day_of_year(), 3, '0'),
        'k' => pad(at.hour.into(), 2, ' '),
        'l' => pad(hour12, 2, ' '),
        'm' => pad(at.month.into(), 2, '0'),
        'M' => pad(at.minute.into(), 2, '0'),
        'n' => "\n".to_owned(),
        'p' => noon.to_owned(),
        'P' => noon.to_lowercase(),
        'S' => pad(at.second.into(), 2, '0'),
        't' => "\t".to_owned(),
        'u' => (from_monday + 1).to_string(),
        'U' => pad((at.day_of_year() + 6 - at.weekday()) / 7, 2, '0'),
        'V' => pad(at.iso_week().1, 2, '0'),
        'w' => at.weekday().to_string(),
        'W' => pad((at.day_of_year() + 6 - from_monday) / 7, 2, '0'),
        'y' => pad(at.year % 100, 2, '0'),
        'Y' => pad(at.year, 1, '0'),
        'z' | 'Z' => String::new(),
        '%' => "%".to_owned(),
        'c' => strftime(at, "%a %b %e %H:%M:%S %Y"),
        'D' | 'x' => strftime(at, "%m/%d/%y"),
        'F' => strftime(at, "%Y-%m-%d"),
        'r' => strftime(at, "%I:%M:%S %p"),
        'R' => strftime(at, "%H:%M"),
        'T' | 'X' => strftime(at, "%H:%M:%S"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_since_1970_become_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 Thursday 001"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday 060"),
            (1_767_323_045, "2026-01-02 03:04:05 Friday 002"),
            (-1, "1969-12-31 23:59:59 Wednesday 365"),
            (4_107_542_399, "2100-02-28 23:59:59 Sunday 059"),
            (4_107_542_400, "2100-03-01 00:00:00 Monday 060"),
            (253_402_300_799, "9999-12-31 23:59:59 Friday 365"),
            (i64::MAX, "1970-01-01 00:00:00 Thursday 001"),
        ] {
            let at = DateTime::from_unix_seconds(seconds);
            assert_eq!(strftime(&at, "%F %T %A %j"), expected, "{seconds}");
        }
    }

    /// Expected texts by Python's `datetime.strftime` on Linux.
    #[test]
    fn every_code_prints_what_python_prints() {
        let at = DateTime { year: 2026, month: 1, day: 2, hour: 3, minute: 4, second: 5 };
        let expected = [
            ("%a %A %b %B %h", "Fri Friday Jan January Jan"),
            ("%d %-d %e %_d %j %-j", "02 2  2  2 002 2"),
            ("%H %I %k %l %M %S %f %p", "03 03  3  3 04 05 000000 AM"),
            ("%y %Y %C %G %g %V %u %w %U %W", "26 2026 20 2026 26 01 5 5 00 00"),
            (
                "%c|%x|%X|%D|%F|%R|%T|%r",
                "Fri Jan  2 03:04:05 2026|01/02/26|03:04:05|01/02/26|2026-01-02|03:04|03:04:05|03:04:05 AM",
            ),
            ("100%% %Q %z%Z|", "100% %Q |"),
        ];
        for (format, text) in expected {
            assert_eq!(strftime(&at, format), text, "{format}");
        }
    }

    #[test]
    fn iso_weeks_belong_to_the_year_of_their_thursday() {
        let date = |year, month, day| DateTime { year, month, day, hour: 0, minute: 0, second: 0 };
        for (at, expected) in [
            (date(2021, 1, 3), "2020-W53-7"),
            (date(2018, 12, 31), "2019-W01-1"),
            (date(2020, 12, 31), "2020-W53-4"),
            (date(2024, 12, 30), "2025-W01-1"),
            (date(2022, 1, 1), "2021-W52-6"),
        ] {
            assert_eq!(strftime(&at, "%G-W%V-%u"), expected);
        }
    }
}
