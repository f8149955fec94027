//! Which layer of the student learns from which layer of the teacher.

use super::config::{LayerMap, NamedMap};

/// Pairs `(student, teacher)` for models of these depths, ascending by student; layers count from 0.
///
/// `uniform` pairs every layer of the shallower model with the layer of the deeper one that ends at the same share of its
/// depth, as TinyBERT does for shallow students (Jiao et al. 2020, section 3.1), rounded to the nearest.
///
/// # Errors
/// A map that these depths do not allow, in words.
pub fn pairs(
    map: &LayerMap,
    student: usize,
    teacher: usize,
) -> Result<Vec<(usize, usize)>, String> {
    match map {
        LayerMap::Named(NamedMap::Identity) if student == teacher => {
            Ok((0..student).map(|i| (i, i)).collect())
        }
        LayerMap::Named(NamedMap::Identity) => Err(format!(
            "`distill.layers = \"identity\"` needs equal depths: the student has {student} layers, the teacher {teacher}; hint: `uniform`"
        )),
        LayerMap::Named(NamedMap::Uniform) => Ok(uniform(student, teacher)),
        LayerMap::List(list) => listed(list, student, teacher),
    }
}

fn uniform(student: usize, teacher: usize) -> Vec<(usize, usize)> {
    // The last layer of one ends where the last layer of the other does.
    let partner = |i: usize, shallow: usize, deep: usize| {
        ((2 * (i + 1) * deep + shallow) / (2 * shallow)).max(1) - 1
    };
    if student <= teacher {
        (0..student)
            .map(|i| (i, partner(i, student, teacher)))
            .collect()
    } else {
        (0..teacher)
            .map(|i| (partner(i, teacher, student), i))
            .collect()
    }
}

fn listed(
    list: &[(usize, usize)],
    student: usize,
    teacher: usize,
) -> Result<Vec<(usize, usize)>, String> {
    if list.is_empty() {
        return Err("`distill.layers` must hold a pair `[student, teacher]`: []".to_string());
    }
    let mut pairs = list.to_vec();
    pairs.sort_unstable();
    for (i, &(s, t)) in pairs.iter().enumerate() {
        if s >= student || t >= teacher {
            return Err(format!(
                "`distill.layers` pairs student layer {s} with teacher layer {t}, counted from 0, but they have {student} and {teacher} layers"
            ));
        }
        if i > 0 && pairs[i - 1] == (s, t) {
            return Err(format!("`distill.layers` holds the pair [{s}, {t}] twice"));
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn uniform_ends_at_the_last_layer_of_both() {
        assert_eq!(uniform(4, 4), [(0, 0), (1, 1), (2, 2), (3, 3)]);
        assert_eq!(uniform(2, 4), [(0, 1), (1, 3)]);
        assert_eq!(uniform(4, 2), [(1, 0), (3, 1)]);
        assert_eq!(uniform(1, 12), [(0, 11)]);
        for student in 1..14 {
            for teacher in 1..14 {
                let pairs = uniform(student, teacher);
                assert_eq!(pairs.len(), student.min(teacher));
                assert_eq!(pairs.last(), Some(&(student - 1, teacher - 1)));
                assert!(pairs.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1));
            }
        }
    }

    #[test]
    fn impossible_maps_say_why() {
        let identity = LayerMap::Named(NamedMap::Identity);
        assert!(pairs(&identity, 3, 3).is_ok());
        assert!(pairs(&identity, 3, 4).unwrap_err().contains("equal depths"));
        let list = |l: &[(usize, usize)]| pairs(&LayerMap::List(l.to_vec()), 2, 3);
        assert_eq!(list(&[(1, 2), (0, 0)]).unwrap(), [(0, 0), (1, 2)]);
        assert!(list(&[(2, 0)]).unwrap_err().contains("student layer 2"));
        assert!(list(&[(1, 1), (1, 1)]).unwrap_err().contains("twice"));
        assert!(list(&[]).is_err());
    }
}
