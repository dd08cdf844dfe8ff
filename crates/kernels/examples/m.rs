use folio_kernels::*;
fn main() {
    for isa in Isa::all_available() {
        for t in [1, 2] {
            let ctx = Context::new(t, isa).unwrap();
            println!(
                "{ctx:?} read {:.1} GB/s f32 {:.0} GF int8 {:.0} GOP",
                measure::read_bandwidth(&ctx).unwrap() / 1e9,
                if isa.name() == "scalar" { 0.0 } else { measure::f32_peak(&ctx) / 1e9 },
                measure::int8_peak(&ctx) / 1e9
            );
        }
    }
}
