//! Numerical checks that several tests need.

use tch::Tensor;

/// `d loss / d x` by autograd against central differences, every element, f64.
pub fn check_gradient(x: &Tensor, loss: impl Fn(&Tensor) -> Tensor) {
    let leaf = x.copy().set_requires_grad(true);
    let gradient = Tensor::run_backward(&[loss(&leaf)], &[&leaf], false, false).remove(0);
    let (flat, gradient) = (x.contiguous().view([-1]), gradient.contiguous().view([-1]));
    let step = 1e-6;
    for i in 0..flat.size()[0] {
        let at = |by: f64| {
            let moved = flat.copy();
            let _ = moved.get(i).g_add_scalar_(by);
            loss(&moved.view_as(x)).double_value(&[])
        };
        let numeric = (at(step) - at(-step)) / (2.0 * step);
        let exact = gradient.double_value(&[i]);
        assert!(
            (numeric - exact).abs() < 1e-7 + 1e-5 * exact.abs(),
            "element {i}: {exact} against {numeric}"
        );
    }
}
