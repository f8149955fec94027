//! Relations between features, and the losses that align them (METHOD: "Transfer capability distillation").
//!
//! Teacher and student may differ in width and heads: only relations between positions are compared. For rows `X` `[n, H]`,
//! centred and scaled to unit norm, the relation is `R = X X^T`, cosines in [-1, 1]; the loss is the mean of
//! `(R_s - R_t)^2` off the diagonal. Writing out the square gives
//! `|R_s - R_t|^2 = |X_s^T X_s|^2 - 2 |X_s^T X_t|^2 + |X_t^T X_t|^2`, products of size H x H: where H is less than n they
//! are cheaper than the n x n ones, and their memory does not grow with n.
//!
//! `K` relations are compared at once.

use tch::Tensor;

/// Added to the variance of a row: a row of zeros stays zero.
const EPS: f64 = 1e-10;

/// Rows centred over their features (where `center`) and scaled to unit norm, without learned scale.
///
/// # Shapes
/// `[.., H]` to `[.., H]`.
pub fn unit_rows(x: &Tensor, center: bool) -> Tensor {
    let h = x.size().last().copied().unwrap_or(1);
    if center {
        let x = x.layer_norm([h], None::<Tensor>, None::<Tensor>, EPS, true);
        x / (h as f64).sqrt()
    } else {
        let square = x
            .square()
            .sum_dim_intlist([-1i64].as_slice(), true, x.kind());
        x * (square + EPS * h as f64).rsqrt()
    }
}

/// Mean squared difference of the relations, off the diagonal.
///
/// # Shapes
/// `student` `[K, n, H_s]` and `teacher` `[K, n, H_t]`, `n >= 2`; result `[K]`.
pub fn relation_loss(student: &Tensor, teacher: &Tensor, center: bool) -> Tensor {
    let (n, hs, ht) = (student.size()[1], student.size()[2], teacher.size()[2]);
    let (x, y) = (unit_rows(student, center), unit_rows(teacher, center));
    let pairs = (n * (n - 1)) as f64;
    if hs * hs + hs * ht + ht * ht < n * (hs + ht) {
        return narrow_loss(&x, &y, pairs);
    }
    let relation = |v: &Tensor| v.matmul(&v.transpose(1, 2)); // [K, n, n]
    let difference = relation(&x) - relation(&y);
    let diagonal = difference.diagonal(0, 1, 2).unsqueeze(-1); // [K, n, 1]
    (sum_squares(&difference) - sum_squares(&diagonal)) / pairs
}

/// The same loss of unit rows by products of size H x H, with its gradient `4 (X (X^T X) - Y (Y^T X))` written out: autograd
/// would take two products for the first part and keep them all.
fn narrow_loss(x: &Tensor, y: &Tensor, pairs: f64) -> Tensor {
    let (value, gradient) = tch::no_grad(|| {
        let own = x.transpose(1, 2).matmul(x); // [K, H_s, H_s]
        let cross = y.transpose(1, 2).matmul(x); // [K, H_t, H_s]
        let other = y.transpose(1, 2).matmul(y); // [K, H_t, H_t]
        // The diagonals differ only where a row is zero.
        let norms = |v: &Tensor| v.norm_scalaropt_dim(2.0, [-1i64].as_slice(), false);
        let diagonal = (norms(x).square() - norms(y).square()).unsqueeze(-1); // [K, n, 1]
        let total = sum_squares(&own) - sum_squares(&cross) * 2.0 + sum_squares(&other)
            - sum_squares(&diagonal);
        let gradient = (x.matmul(&own) - y.matmul(&cross)) * (4.0 / pairs); // [K, n, H_s]
        (total.clamp_min(0.0) / pairs, gradient)
    });
    if !x.requires_grad() {
        return value;
    }
    // Zero, with that gradient.
    let slope = (x * gradient).sum_dim_intlist([1i64, 2].as_slice(), false, x.kind()); // [K]
    value + &slope - slope.detach()
}

/// `[K, a, b]` to `[K]`.
fn sum_squares(x: &Tensor) -> Tensor {
    x.square()
        .sum_dim_intlist([1i64, 2].as_slice(), false, x.kind())
}

/// Queries and keys of some sequences.
#[derive(Debug)]
pub struct QueryKey {
    /// `[B', A, S, D]`.
    pub query: Tensor,
    /// `[B', A, S, D]`.
    pub key: Tensor,
}

impl QueryKey {
    /// Scaled logits, each row less its mean over real keys, which the softmax does not see: `[B', A, S, S]`, or with
    /// `average` the mean over heads, `[B', 1, S, S]`.
    fn logits(&self, mask: Option<&Tensor>, average: bool) -> Tensor {
        let size = self.query.size();
        let (heads, head_size) = (size[1] as f64, size[3] as f64);
        // Taking the mean key away takes the mean logit of every row away.
        let mean = match mask {
            None => self.key.mean_dim([2i64].as_slice(), true, self.key.kind()),
            Some(mask) => {
                let mask = mask.to_kind(self.key.kind());
                let weights = &mask / mask.sum_dim_intlist([1i64].as_slice(), true, mask.kind());
                let weights = weights.unsqueeze(1).unsqueeze(-1); // [B', 1, S, 1]
                (&self.key * weights).sum_dim_intlist([2i64].as_slice(), true, self.key.kind())
            }
        }; // [B', A, 1, D]
        let key = &self.key - mean;
        let joined = |x: &Tensor| x.transpose(1, 2).flatten(2, 3).unsqueeze(1); // [B', 1, S, A*D]
        if average {
            let scale = 1.0 / (heads * head_size.sqrt());
            (joined(&self.query) * scale).matmul(&joined(&key).transpose(-2, -1))
        } else {
            (&self.query * (1.0 / head_size.sqrt())).matmul(&key.transpose(-2, -1))
        }
    }
}

/// Mean squared difference of the scaled query-key logits within a sequence, over real queries and keys. Heads are compared one
/// by one where both have the same number, else their means.
///
/// # Shapes
/// Sequences of teacher and student are the same; `mask` `[B', S]`, 1 at real tokens. Result `[]`.
pub fn attention_loss(student: &QueryKey, teacher: &QueryKey, mask: Option<&Tensor>) -> Tensor {
    let average = student.query.size()[1] != teacher.query.size()[1];
    let difference = student.logits(mask, average) - teacher.logits(mask, average); // [B', A, S, S]
    let square = difference.square();
    match mask {
        None => square.mean(square.kind()),
        Some(mask) => {
            let mask = mask.to_kind(square.kind());
            let pairs = mask.unsqueeze(2) * mask.unsqueeze(1); // [B', S, S]
            let heads = difference.size()[1] as f64;
            let count = pairs.sum(pairs.kind()) * heads;
            (square * pairs.unsqueeze(1)).sum(pairs.kind()) / count
        }
    }
}

/// Linear CKA of the rows, biased (Kornblith et al. 2019, equation 3 with linear kernels).
///
/// # Shapes
/// `[K, n, H_s]` and `[K, n, H_t]` to `[K]`, in [0, 1].
pub fn linear_cka(student: &Tensor, teacher: &Tensor) -> Tensor {
    let center = |x: &Tensor| x - x.mean_dim([1i64].as_slice(), true, x.kind());
    let (x, y) = (center(student), center(teacher));
    let product = |a: &Tensor, b: &Tensor| sum_squares(&a.transpose(1, 2).matmul(b));
    product(&x, &y) / (product(&x, &x) * product(&y, &y) + 1e-30).sqrt()
}
