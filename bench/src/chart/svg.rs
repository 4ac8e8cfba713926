//! The few elements of SVG that a chart needs. Colours follow the reader's: dark on light, or light on dark.

use std::fmt::Write;

/// Colours and sizes. `o0` to `o3` are the subjects that are compared, the last is ours.
const STYLE: &str = "
text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328; }
.title { font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
.line { fill: none; stroke-width: 2; }
.f0 { fill: #c3cad3; } .f1 { fill: #a3adb8; } .f2 { fill: #838e9a; } .f3 { fill: #0969da; }
.s0 { stroke: #c3cad3; } .s1 { stroke: #1a7f37; } .s2 { stroke: #bf8700; } .s3 { stroke: #0969da; }
.t1 { fill: #1a7f37; } .t2 { fill: #9a6700; } .t3 { fill: #0969da; font-weight: 600; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.small { fill: #9198a1; }
.grid { stroke: #3d444d; }
.f0 { fill: #454c55; } .f1 { fill: #626c77; } .f2 { fill: #7f8995; } .f3 { fill: #4493f8; }
.s1 { stroke: #3fb950; } .s2 { stroke: #d29922; } .s3 { stroke: #4493f8; }
.t1 { fill: #3fb950; } .t2 { fill: #d29922; } .t3 { fill: #4493f8; }
}
";

/// A picture that grows.
pub(super) struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

impl Svg {
    /// An empty one; the title is for those who can't see it.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        Self { width, height, title: title.to_owned(), body: String::new() }
    }

    /// A text whose baseline is at `y`.
    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(self.body, r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#);
    }

    /// A filled rectangle.
    pub(super) fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" class="{class}"/>"#
        );
    }

    /// A straight line.
    pub(super) fn rule(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="grid"/>"#
        );
    }

    /// A line through points, and a dot at each.
    pub(super) fn curve(&mut self, points: &[(f64, f64)], number: usize) {
        let all: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(self.body, r#"<polyline points="{}" class="line s{number}"/>"#, all.join(" "));
        for (x, y) in points {
            let _ = writeln!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" class="t{number}"/>"#);
        }
    }

    /// The whole document.
    pub(super) fn finish(self) -> String {
        let Self { width, height, title, body } = self;
        let title = escaped(&title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n{body}</svg>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_can_not_break_the_document() {
        let mut svg = Svg::new(10.0, 20.0, "a < b");
        svg.text(1.0, 2.0, "small", "R&D <x>");
        let document = svg.finish();
        assert!(document.contains("<title>a &lt; b</title>"));
        assert!(document.contains(r#"<text x="1.0" y="2.0" class="small">R&amp;D &lt;x&gt;</text>"#));
    }
}
