use super::*;

fn pod(name: &str, ready: Option<bool>) -> Pod {
    Pod {
        name: name.to_owned(),
        uid: name.to_owned(),
        address: Some("10.0.0.1".to_owned()),
        ready,
        terminating: false,
        scheduled: true,
        touched: None,
    }
}

fn ack(pod: &Pod, formats: &[u32]) -> (String, Ack) {
    let ack = Ack {
        pod: pod.name.clone(),
        instance: "i".to_owned(),
        running: None,
        formats: formats.to_vec(),
        refused: None,
        tested: 0,
        queued: 0,
        leaving: None,
        highest: Default::default(),
        counts: Default::default(),
    };
    (pod.uid.clone(), ack)
}

/// An operator that writes 1 and 2 (upgraded), or 1 only (taken back), over pods of all ages.
#[test]
fn a_format_is_written_when_every_pod_reads_it_in_both_directions() {
    let serving = Some(true);
    let (old, new, newer): (&[u32], &[u32], &[u32]) = (&[1], &[1, 2], &[2, 3]);
    struct Case(&'static str, &'static [u32], Option<u32>, Vec<(Option<bool>, Option<&'static [u32]>)>, u32);
    let cases = [
        Case("no pods", &[1, 2], None, vec![], 2),
        Case(
            "upgraded before the pods",
            &[1, 2],
            Some(1),
            vec![(serving, Some(old)), (serving, Some(old))],
            1,
        ),
        Case("in the middle", &[1, 2], Some(1), vec![(serving, Some(old)), (serving, Some(new))], 1),
        Case("all upgraded", &[1, 2], Some(1), vec![(serving, Some(new)), (serving, Some(new))], 2),
        Case("one has not said anything", &[1, 2], Some(1), vec![(serving, Some(new)), (serving, None)], 1),
        Case("one starts", &[1, 2], Some(1), vec![(serving, Some(new)), (None, None)], 2),
        Case(
            "an old one starts and has spoken",
            &[1, 2],
            Some(1),
            vec![(serving, Some(new)), (None, Some(old))],
            1,
        ),
        Case(
            "taken back before the pods",
            &[1],
            Some(2),
            vec![(serving, Some(new)), (serving, Some(new))],
            1,
        ),
        Case("pods too new for it", &[1], Some(2), vec![(serving, Some(newer))], 1),
        Case(
            "a stray that reads nothing of it",
            &[1, 2],
            Some(2),
            vec![(serving, Some(new)), (None, Some(newer)), (None, Some(old))],
            2,
        ),
    ];
    for Case(name, writes, published, pods, expected) in cases {
        let made: Vec<Pod> =
            pods.iter().enumerate().map(|(number, (ready, _))| pod(&format!("p{number}"), *ready)).collect();
        let acks = made.iter().zip(&pods).filter_map(|(pod, (_, formats))| Some(ack(pod, (*formats)?)));
        assert_eq!(format(writes, published, &made, &acks.collect()), expected, "{name}");
    }
}

#[test]
fn a_pod_that_is_on_its_way_out_decides_nothing() {
    let mut leaving = pod("a", Some(true));
    leaving.terminating = true;
    let acks = HashMap::from([ack(&leaving, &[1])]);
    assert_eq!(format(&[1, 2], Some(1), &[leaving], &acks), 2);
}
